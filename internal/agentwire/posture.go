package agentwire

// Probe asks the agent what a tool's process is and what it may do.
type Probe struct {
	Hidden []string // paths of the host that must not be there inside
	Fixed  []string // paths inside that no tool may write to
}

// Posture is what the agent finds about the shell and itself. What could not
// be found out is zero, which no promise allows.
type Posture struct {
	UIDs, GIDs [4]uint32 // real, effective, saved, of the file system
	Groups     []uint32  // supplementary

	Inheritable, Permitted, Effective, Bounding, Ambient uint64 // capabilities

	NoNewPrivs bool
	Seccomp    uint32 // 2 is a filter
	Filters    uint32

	Namespaces []Namespace
	Mounts     []Mount
	Inherited  []string // descriptors beyond 2 that a child gets from the agent: what each is
	Rlimits    []Rlimit
	Interfaces []string // of the network, that are up
	Processes  uint32   // visible ones
	Hostname   string
	Seen       []string // of Probe.Hidden
	Writable   []string // of Probe.Fixed
	Tries      []Try
	Cut        bool // a list was too long and is not whole
}

// Namespace is one of /proc/self/ns.
type Namespace struct {
	Name  string
	Inode uint64
}

// Mount is one line of mountinfo.
type Mount struct {
	Target  string
	Options string // of the mount, such as "ro,nosuid,nodev"
	Type    string
}

// Rlimit is a hard limit by its number; all ones is none.
type Rlimit struct {
	Resource uint32
	Max      uint64
}

// Try is something that was tried: how it failed, 0 when it did not.
type Try struct {
	Name  string
	Errno uint32
}

// Encode gives the message's body.
func (m Probe) Encode() []byte {
	var f fields
	f.strs(m.Hidden)
	f.strs(m.Fixed)
	return f
}

// DecodeProbe reads a Probe.
func DecodeProbe(b []byte) (Probe, error) {
	p := parser{b: b}
	m := Probe{Hidden: p.strs(), Fixed: p.strs()}
	return m, p.end()
}

// Encode gives the message's body.
func (m Posture) Encode() []byte {
	var f fields
	for _, id := range append(m.UIDs[:], m.GIDs[:]...) {
		f.num(uint64(id))
	}
	f.num(uint64(len(m.Groups)))
	for _, g := range m.Groups {
		f.num(uint64(g))
	}
	for _, c := range []uint64{m.Inheritable, m.Permitted, m.Effective, m.Bounding, m.Ambient} {
		f.num(c)
	}
	f.bool(m.NoNewPrivs)
	f.num(uint64(m.Seccomp))
	f.num(uint64(m.Filters))
	f.num(uint64(len(m.Namespaces)))
	for _, n := range m.Namespaces {
		f.str(n.Name)
		f.num(n.Inode)
	}
	f.num(uint64(len(m.Mounts)))
	for _, n := range m.Mounts {
		f.str(n.Target)
		f.str(n.Options)
		f.str(n.Type)
	}
	f.strs(m.Inherited)
	f.num(uint64(len(m.Rlimits)))
	for _, r := range m.Rlimits {
		f.num(uint64(r.Resource))
		f.num(r.Max)
	}
	f.strs(m.Interfaces)
	f.num(uint64(m.Processes))
	f.str(m.Hostname)
	f.strs(m.Seen)
	f.strs(m.Writable)
	f.num(uint64(len(m.Tries)))
	for _, t := range m.Tries {
		f.str(t.Name)
		f.num(uint64(t.Errno))
	}
	f.bool(m.Cut)
	return f
}

// DecodePosture reads a Posture of at most MaxPosture bytes.
func DecodePosture(b []byte) (Posture, error) {
	if len(b) > MaxPosture {
		return Posture{}, ErrTooLarge
	}
	p := parser{b: b}
	var m Posture
	for i := range m.UIDs {
		m.UIDs[i] = p.num32()
	}
	for i := range m.GIDs {
		m.GIDs[i] = p.num32()
	}
	for range p.count() {
		m.Groups = append(m.Groups, p.num32())
	}
	for _, c := range []*uint64{&m.Inheritable, &m.Permitted, &m.Effective, &m.Bounding, &m.Ambient} {
		*c = p.num()
	}
	m.NoNewPrivs = p.bool()
	m.Seccomp, m.Filters = p.num32(), p.num32()
	for range p.count() {
		m.Namespaces = append(m.Namespaces, Namespace{Name: p.str(), Inode: p.num()})
	}
	for range p.count() {
		m.Mounts = append(m.Mounts, Mount{Target: p.str(), Options: p.str(), Type: p.str()})
	}
	m.Inherited = p.strs()
	for range p.count() {
		m.Rlimits = append(m.Rlimits, Rlimit{Resource: p.num32(), Max: p.num()})
	}
	m.Interfaces = p.strs()
	m.Processes, m.Hostname = p.num32(), p.str()
	m.Seen, m.Writable = p.strs(), p.strs()
	for range p.count() {
		m.Tries = append(m.Tries, Try{Name: p.str(), Errno: p.num32()})
	}
	m.Cut = p.bool()
	return m, p.end()
}
