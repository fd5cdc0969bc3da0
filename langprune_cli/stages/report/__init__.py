"""`report`: one page that shows what pruning did."""
