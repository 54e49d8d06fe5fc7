package agentwire

// SpawnWord is the argument that makes an agent's program a spawner, which
// starts agents for the worker that is at the other end of descriptor 3.
const SpawnWord = "spawn"

// Spawn asks the spawner for a process. Its descriptors travel beside it: the
// new process's, in order, and after them the cgroup's, if there is one.
type Spawn struct {
	Path    string
	Args    []string
	Env     []string
	Flags   uint64 // namespaces, as for clone
	UID     [2]uint32
	GID     [2]uint32 // inside, outside
	Groups  bool      // setgroups may be called inside, and is
	Ambient []uint32  // capabilities
	Files   int
	Cgroup  bool
	Legacy  []string // directories of v1 cgroups to be born in
}

// Spawned answers it: the process, whose descriptor travels beside, or how it
// failed.
type Spawned struct {
	PID   int
	Errno uint32
}

// Encode gives the message's body.
func (m Spawn) Encode() []byte {
	var f fields
	f.str(m.Path)
	f.strs(m.Args)
	f.strs(m.Env)
	f.num(m.Flags)
	for _, id := range [4]uint32{m.UID[0], m.UID[1], m.GID[0], m.GID[1]} {
		f.num(uint64(id))
	}
	f.bool(m.Groups)
	f.num(uint64(len(m.Ambient)))
	for _, c := range m.Ambient {
		f.num(uint64(c))
	}
	f.num(uint64(m.Files))
	f.bool(m.Cgroup)
	f.strs(m.Legacy)
	return f
}

// DecodeSpawn reads a Spawn.
func DecodeSpawn(b []byte) (Spawn, error) {
	p := parser{b: b}
	m := Spawn{Path: p.str(), Args: p.strs(), Env: p.strs(), Flags: p.num()}
	m.UID[0], m.UID[1], m.GID[0], m.GID[1] = p.num32(), p.num32(), p.num32(), p.num32()
	m.Groups = p.bool()
	for range p.count() {
		m.Ambient = append(m.Ambient, p.num32())
	}
	m.Files, m.Cgroup, m.Legacy = int(p.num()&0xffff), p.bool(), p.strs()
	return m, p.end()
}

// Encode gives the message's body.
func (m Spawned) Encode() []byte {
	var f fields
	f.num(uint64(m.PID))
	f.num(uint64(m.Errno))
	return f
}

// DecodeSpawned reads a Spawned.
func DecodeSpawned(b []byte) (Spawned, error) {
	p := parser{b: b}
	m := Spawned{PID: int(p.num() & (1<<31 - 1)), Errno: p.num32()}
	return m, p.end()
}
