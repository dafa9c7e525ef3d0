"""What measuring costs, as ratios taken side by side in one run. Not tests: nothing here passes or fails."""
