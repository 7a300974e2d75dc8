"""`python -m benchmarks`: one table, side by side with the peers, every row a ratio from one run.

Absolute times say more about a machine than about code, and about what else it did. So whatever is
compared runs in turn, round by round (`timing.race`), and a row is the median of the rounds'
ratios. What could not be run is in the table too, with the reason instead of a number.
"""
