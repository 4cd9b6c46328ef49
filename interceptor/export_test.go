package interceptor

// Replayed is how much memory streams keep for replay.
func (it *Interceptor) Replayed() int64 { return it.replay.bytes.Load() }
