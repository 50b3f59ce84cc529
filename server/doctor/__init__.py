"""Says whether this machine can run the service, and what to do where it cannot.

What may die, llama.cpp and what it loads, is looked at in child processes (``native``, ``decode``): nothing
else here may import the binding. Each other module looks at one thing, and judges apart from the looking.
"""
