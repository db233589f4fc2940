"""One page of pictures from a run or a bundle, for people who look rather than read."""
