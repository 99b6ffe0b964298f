"""Speed and memory of our networks and of their peers, on this machine: `inception-zoo bench`.

A section measures figures, by name: ``training/inception_v3/torchvision`` is images per second.
`targets.json` beside the results sets bounds on them.
"""
