"""The service for clinics, without Ray: tokens, jobs, archives, and the HTTP interface."""
