"""How fast, beside the best of the others: kernels (kernels.py) and whole models (model.py).

Everything that is compared takes turns in one process, and what the machine itself can do is
measured in the same run. `cases.CASES` is the table of what is timed, `operators.OPERATORS` says
how.
"""
