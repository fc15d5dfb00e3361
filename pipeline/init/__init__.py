"""`cryobase init`: the files that make a pipeline of any folder; docs/adr/0024.

The links in this folder lead to files of this repository, so that there is no second copy.
"""
