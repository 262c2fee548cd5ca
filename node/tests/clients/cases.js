// Runs the cases of a client one after the other: a line for each, and 1 to exit with if any failed.

module.exports = async (cases) => {
  let failed = 0;
  for (const [name, run] of Object.entries(cases)) {
    try {
      await run();
      console.log("ok", name);
    } catch (error) {
      failed += 1;
      console.log("not ok", name, error);
    }
  }
  return failed ? 1 : 0;
};
