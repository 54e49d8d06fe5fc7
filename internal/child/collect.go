package child

// collector keeps the head and the tail of a stream, each at most half of
// what it was made for, and counts the rest.
type collector struct {
	limit int // of the head; the tail may take as much
	head  []byte
	tail  []byte // a ring once it is full
	at    int    // where the ring's oldest byte is
	total int64
}

func newCollector(keep int) *collector { return &collector{limit: max(keep/2, 1)} }

func (c *collector) write(p []byte) {
	c.total += int64(len(p))
	if room := c.limit - len(c.head); room > 0 {
		n := min(room, len(p))
		c.head = append(c.head, p[:n]...)
		p = p[n:]
	}
	if len(p) == 0 {
		return
	}
	if len(p) >= c.limit {
		c.tail = append(c.tail[:0], p[len(p)-c.limit:]...)
		c.at = 0
		return
	}
	if room := c.limit - len(c.tail); room > 0 {
		n := min(room, len(p))
		c.tail = append(c.tail, p[:n]...)
		p = p[n:]
	}
	for len(p) > 0 {
		n := copy(c.tail[c.at:], p)
		c.at = (c.at + n) % len(c.tail)
		p = p[n:]
	}
}

// result gives what was kept. The collector must not be used after it.
func (c *collector) result() (head []byte, dropped int64, tail []byte) {
	tail = c.tail
	if c.at > 0 {
		tail = append(append(make([]byte, 0, len(c.tail)), c.tail[c.at:]...), c.tail[:c.at]...)
	}
	return c.head, c.total - int64(len(c.head)) - int64(len(tail)), tail
}
