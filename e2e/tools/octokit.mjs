// Lists all issues of a repository, which come in pages.
import { Octokit } from 'octokit';

const { TILL, KEY } = process.env;
const octokit = new Octokit({ baseUrl: TILL, auth: KEY });
try {
  const issues = await octokit.paginate('GET /repos/{owner}/{repo}/issues', { owner: 'o', repo: 'r', per_page: 2 });
  console.log(`${issues.length} issues`);
} catch (e) {
  console.error(e.status, e.message);
  process.exitCode = 1;
}
