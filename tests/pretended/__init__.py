"""GPUs that are not there: tensors that say ``cuda:N``, compute on the CPU, and tell of all that a GPU would mind."""
