"""What a person looks after: whether the nights ran, and whether this machine and its servers are well."""
