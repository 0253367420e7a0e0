package postgrestest

// New starts a server for a program that is not a test. It calls Remove at its end.
func New(settings ...string) (*Server, error) { return start(settings...) }

// Remove ends the server, and removes all that it has written.
func (s *Server) Remove() error { return s.remove() }
