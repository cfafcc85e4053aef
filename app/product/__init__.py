"""The replaceable product on the gateway: documents, retrieval and answers with citations."""
