"""What the operator wrote: text to `Snapshot`. Imports no other room; pure but for source/, load.py and environment.py.

The layers, from the bottom up; each imports only those below it (tests/config/test_layers.py checks it):

    snapshot              the nouns of the config, and the table of its schema
    secrets               sealed values, identities, hashes, the kinds of account
    problems              what is wrong with a tree, and how it is reported
    model                 what the TOML of a tree may say, and where it says it
    rules, source         what a tree must keep besides its types; how its files are read
    compile, environment  the compiler; what a tree needs of its machine
    diff, load            what a new config changes; reading and compiling in one go
    guard, edit           which changes wait for a person; how the files of a tree are changed
"""
