"""Linear algebra of updates of low rank. Nothing here knows files, names or adapters.

`factored` works on products of thin factors that are never formed, `dense` finds such factors for
a matrix in blocks of `rows` by way of `krylov`, `ranks` decides how many of them are kept, with
`budget` to spend one on all, and `truncation` certifies what is kept.
"""
