"""What numbers mean, in sentences: pure functions from numbers to text, a file for each section of a report.

Each returns a list of sentences; the first can stand alone. Nothing here knows Datasets.
"""
