package agentwire

// Bounds of a program that the agent runs beside its shell.
const (
	// MaxPrograms is how many an agent runs at one time.
	MaxPrograms = 16
	// MaxUnread is how much input waits in the agent for a program that does
	// not read it; with more the program is ended.
	MaxUnread = 4 << 20
	// MaxErrors is how much of the end of a program's standard error is kept.
	MaxErrors = 8 << 10
	// MaxData is the most that one Input or Data carries.
	MaxData = 256 << 10
)

// Start asks for a program, with pipes, beside the shell. Its number is the
// supervisor's, never used twice on a connection.
type Start struct {
	Num  uint64
	Args []string // the program, as a shell finds it, and its arguments
	Env  []string // KEY=value, added to the shell's environment
}

// Input goes to a program's standard input. No data is the end of it.
type Input struct {
	Num  uint64
	Data []byte
}

// Grant lets a program write so much more; the agent reads no more of it.
type Grant struct {
	Num   uint64
	Bytes int
}

// Data is what a program has written.
type Data struct {
	Num  uint64
	Data []byte
}

// Ended is the end of a program, or why it could not be started. Nothing of it
// follows.
type Ended struct {
	Num    uint64
	Code   int    // its status; 128 and the signal's number after a signal
	Reason string // why the agent ended it, "" when it ended by itself
	Errors []byte // the end of its standard error
}

// Encode gives the message's body.
func (m Start) Encode() []byte {
	var f fields
	f.num(m.Num)
	f.strs(m.Args)
	f.strs(m.Env)
	return f
}

// DecodeStart reads a Start.
func DecodeStart(b []byte) (Start, error) {
	p := parser{b: b}
	m := Start{Num: p.num(), Args: p.strs(), Env: p.strs()}
	return m, p.end()
}

// Encode gives the message's body.
func (m Input) Encode() []byte { return numbered(m.Num, m.Data) }

// DecodeInput reads an Input; its data shares b's memory.
func DecodeInput(b []byte) (Input, error) {
	p := parser{b: b}
	m := Input{Num: p.num(), Data: p.bytes()}
	return m, p.end()
}

// Encode gives the message's body.
func (m Grant) Encode() []byte {
	var f fields
	f.num(m.Num)
	f.num(uint64(max(m.Bytes, 0)))
	return f
}

// DecodeGrant reads a Grant.
func DecodeGrant(b []byte) (Grant, error) {
	p := parser{b: b}
	m := Grant{Num: p.num(), Bytes: int(p.num() & (1<<31 - 1))}
	return m, p.end()
}

// Encode gives the message's body.
func (m Data) Encode() []byte { return numbered(m.Num, m.Data) }

// DecodeData reads a Data; its data shares b's memory.
func DecodeData(b []byte) (Data, error) {
	p := parser{b: b}
	m := Data{Num: p.num(), Data: p.bytes()}
	return m, p.end()
}

// Encode gives the message's body.
func (m Ended) Encode() []byte {
	var f fields
	f.num(m.Num)
	f.num(uint64(uint32(m.Code)))
	f.str(m.Reason)
	f.bytes(m.Errors)
	return f
}

// DecodeEnded reads an Ended.
func DecodeEnded(b []byte) (Ended, error) {
	p := parser{b: b}
	m := Ended{Num: p.num(), Code: int(int32(uint32(p.num()))), Reason: p.str(), Errors: p.bytes()}
	return m, p.end()
}

// EncodeNum is the body of Quit, DecodeNum reads it.
func EncodeNum(n uint64) []byte {
	var f fields
	f.num(n)
	return f
}

// DecodeNum reads such a body.
func DecodeNum(b []byte) (uint64, error) {
	p := parser{b: b}
	n := p.num()
	return n, p.end()
}

func numbered(n uint64, data []byte) []byte {
	f := make(fields, 0, len(data)+16)
	f.num(n)
	f.bytes(data)
	return f
}
