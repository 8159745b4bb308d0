"""Studies of sinklab: what to train, training it, and what the runs show. README.md here says how to use them.

plan reads a study.yaml; run trains and measures; store keeps runs and their figures; judge holds claims against them;
report makes the pages.
"""
