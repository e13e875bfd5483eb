"""How a method is trained: the command line, the set-up, the loop, what is recorded and when it is saved."""
