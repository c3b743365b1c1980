"""What a person sees of a run from outside: read from files alone, so that looking disturbs nothing."""
