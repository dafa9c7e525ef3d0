"""From a pipeline that samples to a Dataset: record, reduce every attention call, average, lay out."""
