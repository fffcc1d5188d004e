"""Linear algebra of low-rank updates. Nothing here knows files, names or adapters.

`factored` works on products of thin factors without forming them. `dense` and `right` find such
factors of a matrix that is read in `row_blocks`, with the iteration of `krylov`. `ranks` decides
how many of them are kept, `budget` spends one budget on all targets, `settle` computes more
singular values where a rule needs them, and `truncation` certifies what is kept.
"""
