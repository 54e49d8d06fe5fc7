package tree

func openHold(dir string, own owner) (hold, error) { return openPortable(dir, own) }
