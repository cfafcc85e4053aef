"""AWS's JSON protocol, spoken by the event loop itself: DynamoDB and the secret need no thread and no model."""
