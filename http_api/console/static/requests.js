// The list holds still; how many requests have come since, and how many run, is asked for while somebody looks.
import { lookAgain } from "./again.js";

lookAgain(4000, 900); // for an hour
