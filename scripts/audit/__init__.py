"""What can be found out about the service's security without running it (`make audit`)."""
