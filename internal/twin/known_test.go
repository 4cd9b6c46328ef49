package twin

// knownStreams are the seeds of programs with streams that are known to differ from bare,
// and why.
var knownStreams = []uint64{}
