package worker

import "testing"

func TestResumedSessionsAreServedBeforeFreshOnes(t *testing.T) {
	s := newSlots(1, 1, 0)
	held := s.take(false)
	if !closed(held) {
		t.Fatal("a free slot was not given")
	}
	if free, _ := s.vacancy(); free {
		t.Error("vacancy without a free slot")
	}
	fresh, parked, late := s.take(false), s.take(true), s.take(true)
	s.give(late) // asked for and given back unseen
	s.give(held)
	if !closed(parked) || closed(fresh) {
		t.Error("the fresh session went first")
	}
	s.give(parked)
	if !closed(fresh) {
		t.Error("the fresh session got no slot")
	}
	_, changed := s.vacancy()
	s.give(fresh)
	if free, _ := s.vacancy(); !free || !closed(changed) {
		t.Error("the last slot was not freed")
	}
}

func TestTheOldestParkedGivesWay(t *testing.T) {
	s := newSlots(1, 2, 0)
	person := s.park(true)
	first, second := s.park(false), s.park(false)
	if closed(person.evict) || !closed(first.evict) || closed(second.evict) {
		t.Error("not the oldest that waits for nobody gave way")
	}
	s.unpark(first, true)
	s.unpark(second, true)
	other := s.park(true)
	third := s.park(true)
	if !closed(person.evict) || closed(other.evict) || closed(third.evict) {
		t.Error("among those that wait for a person, not the oldest gave way")
	}
	s.drain()
	if !closed(other.evict) || !closed(third.evict) || !closed(s.park(false).evict) {
		t.Error("a drain leaves sessions parked")
	}
}
