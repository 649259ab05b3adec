"""Who may do what: identities, permissions and the rules that the contract states."""
