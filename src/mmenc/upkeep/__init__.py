"""Looking after files that a project has gathered: what may go, and what an earlier version wrote; nothing is done unasked."""
