"""The parts of a report, a file each: words, tables, figures and the numbers behind them."""
