package gvisor

var StateDir = stateDir
