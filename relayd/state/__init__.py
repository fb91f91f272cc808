"""What is counted, behind one contract with two back ends. Sync; imports the nouns of wire, config and core."""
