"""What a flow run does besides its work: locks, queues, waits for servers, other runs, an end when it is lost."""
