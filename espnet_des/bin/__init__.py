"""One thin command per verb: parse the command line, call one function.

May import: everything; nothing imports from here.
"""
