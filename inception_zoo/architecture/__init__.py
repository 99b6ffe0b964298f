"""Networks as data: notation, tables, choices, plans and their cost. This package does not import torch."""
