package event

// DecodeMessage is what a row of the outbox says.
func DecodeMessage(key, value []byte) (Message, error) {
	m, _, err := message(key, value)
	return m, err
}
