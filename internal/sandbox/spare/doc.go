// Package spare makes a directory that a session has used what it was before: to
// make directories and to remove them is most of what a small session costs a file
// system.
package spare
