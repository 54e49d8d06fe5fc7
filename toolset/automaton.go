package toolset

import (
	"encoding/binary"
	"regexp/syntax"
	"slices"
	"unicode/utf8"
)

// automaton says which lines match an expression, at a table look-up per
// byte: a deterministic automaton over the expression's program whose states
// are made when they are first met. It answers exactly as package regexp does
// for a line on its own. One goroutine uses it.
type automaton struct {
	prog *syntax.Prog
	// table holds, for state s and ASCII byte c, the state after it at
	// s<<7|c. The line end's column leads back to the first state. Unknown
	// stays 0, and so does the column of CR, which may be part of the line's end.
	table  []int32
	states []autoState
	index  map[string]int32
	resets int

	stack, next []uint32 // of step, used again
	seen        []uint32 // seen[pc] == round: visited in this step
	round       uint32
	key         []byte
}

// autoState is a set of places in the program, before what they allow without
// reading on is worked out: that depends on the next character.
type autoState struct {
	places []uint32 // sorted
	before rune     // what stands before: -1 (nothing), 'a' (a word character) or ' '
	beyond map[rune]int32
}

const (
	autoUnknown = 0
	autoMatched = 1
	autoFirst   = 2 // at the start of a line

	maxAutoProg   = 3000 // instructions
	maxAutoStates = 2048
	maxAutoResets = 20
	maxAutoBeyond = 1024 // other characters remembered for a state
)

// newAutomaton gives nil when the program is too big for one.
func newAutomaton(prog *syntax.Prog) *automaton {
	if prog == nil || len(prog.Inst) > maxAutoProg {
		return nil
	}
	a := &automaton{prog: prog, seen: make([]uint32, len(prog.Inst))}
	a.reset()
	return a
}

func (a *automaton) reset() {
	a.table = append(a.table[:0], make([]int32, autoFirst<<7)...)
	a.states = append(a.states[:0], autoState{}, autoState{})
	a.index = map[string]int32{}
	a.state([]uint32{uint32(a.prog.Start)}, -1)
}

// worn says that the expression has so many states that remembering them does
// not pay.
func (a *automaton) worn() bool { return a.resets > maxAutoResets }

// find gives a place in the first line of b at or after the line start at
// that matches, or -1. The end of b ends a line.
func (a *automaton) find(b []byte, at int) int {
	s, table := int32(autoFirst), a.table
	for i := at; i < len(b); {
		if c := b[i]; c < utf8.RuneSelf {
			if n := table[uint(s)<<7|uint(c)]; n > autoMatched {
				s = n
				i++
				continue
			}
		}
		n, size := a.slow(s, b, i)
		table = a.table
		if n == autoMatched {
			return i
		}
		s = n
		i += size
	}
	if len(b) > at && b[len(b)-1] == '\n' {
		return -1 // nothing stands after the last line end
	}
	if n := a.step(s, -1); n == autoMatched {
		return max(len(b)-1, at)
	}
	return -1
}

// slow makes one step that the table does not hold.
func (a *automaton) slow(s int32, b []byte, i int) (n int32, size int) {
	c := b[i]
	switch {
	case c == '\n':
		n = a.step(s, -1)
		if n > autoMatched {
			a.table[int(s)<<7|'\n'] = n
		}
		return n, 1
	case c == '\r':
		if i+1 == len(b) || b[i+1] == '\n' {
			if n = a.step(s, -1); n == autoMatched {
				return n, 1
			}
		}
		return a.step(s, '\r'), 1
	case c < utf8.RuneSelf:
		count := len(a.states)
		n = a.step(s, rune(c))
		if n > autoMatched && len(a.states) >= count { // not after a reset
			a.table[int(s)<<7|int(c)] = n
		}
		return n, 1
	}
	r, size := utf8.DecodeRune(b[i:])
	if n, ok := a.states[s].beyond[r]; ok {
		return n, size
	}
	count := len(a.states)
	n = a.step(s, r)
	if len(a.states) >= count {
		st := &a.states[s]
		if st.beyond == nil || len(st.beyond) >= maxAutoBeyond {
			st.beyond = map[rune]int32{}
		}
		st.beyond[r] = n
	}
	return n, size
}

// step goes from a state over a character, or with -1 over the line's end to
// the start of the next line.
func (a *automaton) step(s int32, r rune) int32 {
	a.round++
	if a.round == 0 { // it went all the way round
		clear(a.seen)
		a.round = 1
	}
	st := a.states[s]
	flags := syntax.EmptyOpContext(st.before, r)
	a.next = a.next[:0]
	a.stack = append(a.stack[:0], st.places...)
	for len(a.stack) > 0 {
		pc := a.stack[len(a.stack)-1]
		a.stack = a.stack[:len(a.stack)-1]
		if a.seen[pc] == a.round {
			continue
		}
		a.seen[pc] = a.round
		in := &a.prog.Inst[pc]
		switch in.Op {
		case syntax.InstMatch:
			return autoMatched
		case syntax.InstAlt, syntax.InstAltMatch:
			a.stack = append(a.stack, in.Arg, in.Out)
		case syntax.InstCapture, syntax.InstNop:
			a.stack = append(a.stack, in.Out)
		case syntax.InstEmptyWidth:
			if syntax.EmptyOp(in.Arg)&^flags == 0 {
				a.stack = append(a.stack, in.Out)
			}
		case syntax.InstRune, syntax.InstRune1:
			if r >= 0 && in.MatchRune(r) {
				a.next = append(a.next, in.Out)
			}
		case syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
			if r >= 0 {
				a.next = append(a.next, in.Out)
			}
		}
	}
	if r < 0 {
		return autoFirst
	}
	a.next = append(a.next, uint32(a.prog.Start)) // a match may begin anywhere
	slices.Sort(a.next)
	a.next = slices.Compact(a.next)
	before := ' '
	if syntax.IsWordChar(r) {
		before = 'a'
	}
	return a.state(a.next, before)
}

// state finds or makes a state. When there are too many, all are forgotten
// first.
func (a *automaton) state(places []uint32, before rune) int32 {
	a.key = append(a.key[:0], byte(before))
	for _, p := range places {
		a.key = binary.NativeEndian.AppendUint32(a.key, p)
	}
	if s, ok := a.index[string(a.key)]; ok {
		return s
	}
	if len(a.states) >= maxAutoStates {
		a.resets++
		places = slices.Clone(places)
		key := slices.Clone(a.key)
		a.reset()
		a.key = key
		if s, ok := a.index[string(a.key)]; ok {
			return s
		}
	}
	s := int32(len(a.states))
	a.index[string(a.key)] = s
	a.states = append(a.states, autoState{places: slices.Clone(places), before: before})
	a.table = append(a.table, make([]int32, 1<<7)...)
	return s
}
