"""For a developer's machine only. Production never imports it."""
