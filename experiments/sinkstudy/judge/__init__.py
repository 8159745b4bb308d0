"""Claims, the statistics behind them, and what follows from committed runs."""
