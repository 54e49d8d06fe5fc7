package skills

// Held counts who has what is in the cache.
func Held(p *Preparer) (n int) {
	p.cache.mu.Lock()
	defer p.cache.mu.Unlock()
	for _, users := range p.cache.held {
		n += users
	}
	return n
}
