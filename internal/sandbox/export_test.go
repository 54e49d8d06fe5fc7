package sandbox

// Places is how many sessions a keeper has in mind.
func (k *Keeper) Places() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.places)
}
