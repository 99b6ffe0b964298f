"""Networks as data: notation, tables, choices, plans and their cost. Imports no torch."""
