"""What people say: a page that asks them to rate pictures blindly, and the analysis of what they rated (Table 3)."""
