"""Where tiles and regions lie: integers only."""
