"""Benchmarks of speed and memory, for our networks and for other libraries' (their peers): `inception-zoo bench`.

A section measures named figures. For example, ``training/inception_v3/torchvision`` is a speed in images per second.
The file `targets.json`, in the folder of the results, sets bounds on figures.
"""
