// Package egress is a session's way out: a proxy in the supervisor, on a unix
// socket of the session's own, that speaks HTTP and SOCKS5 and reaches what
// the session's rules name, at addresses that it has checked, and nothing
// else. Named hosts may get a secret put into their requests, which the
// session never sees.
//
// A name is read by one parser (ParseTarget) wherever it comes from, asked of
// one resolver, and the address that was checked is the one that is dialled.
// How a request travels:
//
//	session.go   a connection, told apart by its first byte
//	http.go      CONNECT and requests of the absolute form    socks.go  SOCKS5
//	dial.go      rule, addresses, connection: the only way out
//	tunnel.go    bytes both ways, the name in the TLS greeting checked
//	intercept.go TLS ended here, for hosts with a secret      secret.go  in, and out again
package egress
