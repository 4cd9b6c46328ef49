package twin

// knownStreams are the seeds of programs with streams that are known to differ from bare.
var knownStreams = []uint64{
	7, 10, 12, 13, 22, 23, 29, 36, 44, 50, 51, 55, 62, 67, 68, 71,
	73, 77, 79, 81, 83, 84, 85, 90, 92, 93, 94, 101, 103, 115, 117, 120,
	123, 126, 132, 138, 144, 146, 151, 153, 156, 160, 165, 169, 170, 172, 185, 189,
	199,
}
