"""The parts of a report, a file each: words, tables, figure and the numbers behind them."""
